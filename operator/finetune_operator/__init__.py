"""The operator of FineTuneJob: wakeups → workqueue → observe → plan → apply."""
