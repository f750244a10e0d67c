"""The GPU-hours and the cost of namespaces."""

from dashboards.panels import NAMESPACE, NAMESPACES, Dashboard, Panel, Query

SHOWBACK = Dashboard(
    name="showback",
    title="FineTune / Showback",
    description="GPU-hours of each namespace in the chosen time range, and with records of usage "
    "their cost in the present month and the state of the budgets.",
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
        (
            "Cost, with the chart value usage.enabled",
            (
                Panel(
                    title="Cost of the present month by namespace",
                    description="From the first day of the month (UTC), for training and for "
                    "serving, at the prices of the profiles.",
                    kind="table",
                    queries=(
                        Query(
                            text=(
                                "sum by (job_namespace, purpose, currency) "
                                f"(finetune_month_cost{{{NAMESPACE}}})"
                            ),
                            instant=True,
                        ),
                    ),
                ),
                Panel(
                    title="Part of each budget that is used or reserved",
                    description="GPU time and cost in the present period, for training and for "
                    "serving. At 100 %, jobs or endpoints wait.",
                    unit="percentunit",
                    queries=tuple(
                        Query(
                            text=(
                                f'sum by (budget, purpose) ({metric}{{amount=~"used|reserved"}})'
                                f' / sum by (budget, purpose) ({metric}{{amount="limit"}})'
                            ),
                            legend=f"{{{{budget}}}}, {{{{purpose}}}}: {quantity}",
                        )
                        for metric, quantity in (
                            ("finetune_budget_gpu_seconds", "GPU time"),
                            ("finetune_budget_cost", "cost"),
                        )
                    ),
                ),
                Panel(
                    title="Jobs that wait for a budget",
                    description="They hold no GPU, and start by themselves.",
                    queries=(Query(text="finetune_budget_waiting_jobs", legend="{{budget}}"),),
                ),
            ),
        ),
    ),
)
