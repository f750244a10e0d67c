"""The GPU-hours of namespaces."""

from dashboards.panels import NAMESPACE, NAMESPACES, Dashboard, Panel, Query

SHOWBACK = Dashboard(
    name="showback",
    title="FineTune / Showback",
    description="GPU-hours of each namespace, in the chosen time range.",
    variables=(NAMESPACES,),
    since="now-30d",
    rows=(
        (
            "GPU-hours",
            (
                Panel(
                    title="GPU-hours by namespace",
                    description="Sum over the time range, for training and for serving.",
                    unit="h",
                    kind="table",
                    queries=(
                        Query(
                            text=(
                                "sum by (job_namespace, purpose) (increase("
                                f'finetune_gpu_seconds_total{{{NAMESPACE},purpose!=""}}[$__range]))'
                                " / 3600"
                            ),
                            instant=True,
                        ),
                    ),
                ),
                Panel(
                    title="GPUs in use by namespace",
                    description="Averaged over the interval.",
                    stacked=True,
                    queries=(
                        Query(
                            text=(
                                "sum by (job_namespace) (rate(finetune_gpu_seconds_total"
                                f'{{{NAMESPACE},purpose!=""}}[$__rate_interval]))'
                            ),
                            legend="{{job_namespace}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
