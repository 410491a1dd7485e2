"""Shared: Envoy YAML or JSON -> a validated protobuf message that is supported as a whole, or all reasons why not.

In the order in which a text goes through it:

* ``options``, ``command_line``, ``cpus``: what the command line says
* ``load``: the one entry; ``terse``: ``--listen``/``--to`` as a source
* ``yaml_text``, ``json_text`` -> ``document``: text to a tree of nodes, each with its place
* ``schema``, ``scalars``, ``builder`` -> ``marks``: tree to message, with positions beside it
* ``walk``, then the checks on every message: ``rules`` and ``constraints``; ``supported``, ``supported_routes`` and
  ``support_check``; ``semantics``, ``semantics_routes`` and ``addresses``
* ``errors``, ``report``, ``suggest``: how a finding looks
* ``printing``, ``supported_table``: the other way round, for people

Whoever needs the result calls ``load.load(options)``.
"""
