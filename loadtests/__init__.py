"""Load tests and measurements. Everything here talks to 127.0.0.1 only, is bounded in time, and stops what it started.

=====================  ==============================================================================================
``compare``            CPU per request, latency and memory beside Envoy, nginx and HAProxy (``make bench``)
``run``                one locust scenario against the demo origin through the proxy (``make load SCENARIO=steady``)
``soak``               mixed load for minutes; fails when memory, descriptors or pool entries grow (``make soak``)
``profile``            where a worker's time goes (``make profile``)
=====================  ==============================================================================================

From a checkout only: they share the process helpers of ``tests/support``.
"""
