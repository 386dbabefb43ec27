"""Tables and contenders of `bench_plan`, each run in a process of its own."""
