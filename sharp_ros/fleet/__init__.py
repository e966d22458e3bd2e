"""Many recordings by one command: a task each, on processes of this machine or on Ray.

`run.run_fleet` is the whole of it; `recordings` finds and reads them, `executors` are where tasks
run, `results` is what is kept, and `page` shows it.
"""
