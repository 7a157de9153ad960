"""What runs and when: tasks, the scheduler, signals, timers, futexes, the clock.

It knows no files but as what a task waits for.
"""
