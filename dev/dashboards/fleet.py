"""All jobs, and the operator itself."""

from dashboards.panels import NAMESPACE, NAMESPACES, Dashboard, Panel, Query, quantile

FAILED = f'finetune_stage_outcomes_total{{{NAMESPACE},outcome="Failed"}}'

FLEET = Dashboard(
    name="fleet",
    title="FineTune / Fleet",
    description="All jobs by state, what fails and what waits, and the operator itself.",
    variables=(NAMESPACES,),
    since="now-24h",
    rows=(
        (
            "Jobs",
            (
                Panel(
                    title="Jobs by state",
                    description="Jobs by the reason of their condition Ready.",
                    queries=(
                        Query(
                            text=f"sum by (reason) (finetune_jobs{{{NAMESPACE}}})",
                            legend="{{reason}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    title="GPUs in use",
                    description="GPUs that train and that serve, averaged over the interval.",
                    queries=(
                        Query(
                            text=(
                                "sum by (purpose) (rate(finetune_gpu_seconds_total"
                                f'{{{NAMESPACE},purpose!=""}}[$__rate_interval]))'
                            ),
                            legend="{{purpose}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    title="Attempts that failed",
                    description="Failed attempts of a stage by their reason, within the interval.",
                    queries=(
                        Query(
                            # The first failure creates the series, which is no increase.
                            text=(
                                f"sum by (stage, reason) ({FAILED} unless {FAILED} "
                                f"offset $__rate_interval or increase({FAILED}[$__rate_interval]))"
                            ),
                            legend="{{stage}}: {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    title="Duration of the stages",
                    description="From the start of the Job to its completion; median.",
                    unit="s",
                    queries=(
                        Query(
                            text=(
                                "histogram_quantile(0.5, sum by (le, stage) "
                                "(rate(finetune_stage_duration_seconds_bucket[1d])))"
                            ),
                            legend="{{stage}}",
                        ),
                    ),
                    logarithmic=True,
                ),
            ),
        ),
        (
            "Operator",
            (
                Panel(
                    title="Leader",
                    description="Exactly one replica is the leader; without one, no job continues.",
                    kind="stat",
                    queries=(
                        Query(
                            text="sum(leader_election_master_status)",
                            legend="leaders",
                            instant=True,
                        ),
                    ),
                ),
                Panel(
                    title="Reconciles",
                    description="Reconciles per second, by result.",
                    unit="ops",
                    queries=(
                        Query(
                            text=(
                                "sum by (controller, result) "
                                "(rate(controller_runtime_reconcile_total[$__rate_interval]))"
                            ),
                            legend="{{controller}}: {{result}}",
                        ),
                    ),
                ),
                Panel(
                    title="Time until a change is handled (p99)",
                    description="The wait in the work queue, and the reconcile.",
                    unit="s",
                    queries=(
                        Query(
                            text=quantile(0.99, "workqueue_queue_duration_seconds"), legend="wait"
                        ),
                        Query(
                            text=quantile(0.99, "controller_runtime_reconcile_time_seconds"),
                            legend="reconcile",
                        ),
                    ),
                ),
                Panel(
                    title="Requests to the API server",
                    description="Requests per second, by status code.",
                    unit="reqps",
                    queries=(
                        Query(
                            text=(
                                "sum by (code) (rate(rest_client_requests_total[$__rate_interval]))"
                            ),
                            legend="{{code}}",
                        ),
                    ),
                ),
                Panel(
                    title="Memory",
                    description="Resident memory of each replica.",
                    unit="bytes",
                    queries=(
                        Query(
                            text=(
                                "process_resident_memory_bytes and on (instance) "
                                "leader_election_master_status"
                            ),
                            legend="{{pod}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
