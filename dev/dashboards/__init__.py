"""Makes the Grafana dashboards of the chart from tables of panels.

``python dev/dashboards`` writes ``charts/finetune-operator/files/dashboards/``, and ``--check``
compares the files there.
"""
