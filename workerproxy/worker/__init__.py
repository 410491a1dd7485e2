"""A worker: the five steps of a request, and where each is.

::

    step                        event                    where
    1 downstream read request   A  downstream readable   network/connection.py  Connection._on_readable
                                                         http/connection_manager.py  ConnectionManager.on_data
                                                         http/codec/server_codec.py  ServerCodec.feed
                                                         http/stream.py  ActiveStream.decode
                                                         http/filter_manager.py  FilterManager.decode_headers
    2 downstream request router A                        router/route_table.py  RouteTable
                                                         router/router.py  Router.decode_headers
                                                         upstream/cluster.py  Cluster.choose_host
                                                         upstream/connection_pool.py  ConnectionPool.new_stream
    3 upstream write request    B  upstream writable     upstream/active_client.py  ActiveClient._on_connect_event
                                                         router/upstream_request.py  UpstreamRequest.on_pool_ready
    4 upstream read response    C  upstream readable     upstream/active_client.py  ActiveClient.on_data
                                                         http/codec/client_codec.py  ClientCodec.feed
                                                         router/upstream_request.py  UpstreamRequest.on_response_read
                                                         router/router.py  Router.on_upstream_headers
    5 downstream write response D  downstream writable   http/stream.py  ActiveStream.send_headers, send_data
                                                         network/connection.py  Connection.write, _on_writable
                                                         http/connection_manager.py  ConnectionManager.on_stream_done

``worker.py`` obeys the control pipe, ``data_plane.py`` builds all of the above from a configuration. A worker never
reads a configuration file and never imports ``main_thread``. ``docs/life_of_a_request.md`` tells the same as a story.
"""
