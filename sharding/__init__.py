"""Tables, hosts, topology, planner and plan; nothing here knows Spark, readers or models."""
