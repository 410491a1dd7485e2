"""Load balancers. A module here is one; ``LB_POLICY`` is the ``lb_policy`` it serves."""
