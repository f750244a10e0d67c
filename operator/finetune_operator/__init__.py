"""The operator for FineTuneJobs: watch → workqueue → snapshot → reconcile → apply."""
