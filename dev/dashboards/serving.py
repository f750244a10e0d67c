"""One endpoint, from what vLLM and the verifier report."""

from dashboards.panels import JOB, Dashboard, Panel, Query, of_job, quantile

SERVING = Dashboard(
    name="serving",
    title="FineTune / Serving",
    description="One endpoint: requests, latency, and the verification of the served model.",
    variables=of_job("vllm:num_requests_running"),
    rows=(
        (
            "Verification",
            (
                Panel(
                    title="Distance and tolerance",
                    description=(
                        "How far the scores of the served model are from those of the trained one, "
                        "and how far they may be."
                    ),
                    queries=(
                        Query(text=f"max(finetune_verify_distance{{{JOB}}})", legend="distance"),
                        Query(text=f"max(finetune_verify_tolerance{{{JOB}}})", legend="tolerance"),
                    ),
                ),
                Panel(
                    title="Outcome",
                    description="Pods by the outcome of their verification.",
                    kind="table",
                    queries=(
                        Query(
                            text=f"sum by (outcome) (finetune_verify_outcome{{{JOB}}} == 1)",
                            instant=True,
                        ),
                    ),
                ),
            ),
        ),
        (
            "Requests",
            (
                Panel(
                    title="Requests",
                    description="Requests that vLLM runs, and that wait for a place in its batch.",
                    queries=(
                        Query(text=f"sum(vllm:num_requests_running{{{JOB}}})", legend="running"),
                        Query(text=f"sum(vllm:num_requests_waiting{{{JOB}}})", legend="waiting"),
                    ),
                ),
                Panel(
                    title="Completed requests",
                    description="Requests per second.",
                    unit="reqps",
                    queries=(
                        Query(
                            text=f"sum(rate(vllm:request_success_total{{{JOB}}}[$__rate_interval]))",
                            legend="requests",
                        ),
                    ),
                ),
                Panel(
                    title="Time to the first token",
                    description="From the request to its first token; median and p95.",
                    unit="s",
                    queries=(
                        Query(
                            text=quantile(0.5, f"vllm:time_to_first_token_seconds{{{JOB}}}"),
                            legend="median",
                        ),
                        Query(
                            text=quantile(0.95, f"vllm:time_to_first_token_seconds{{{JOB}}}"),
                            legend="p95",
                        ),
                    ),
                ),
                Panel(
                    title="Tokens",
                    description="Tokens per second that were read and generated.",
                    queries=(
                        Query(
                            text=f"sum(rate(vllm:prompt_tokens_total{{{JOB}}}[$__rate_interval]))",
                            legend="read",
                        ),
                        Query(
                            text=(
                                f"sum(rate(vllm:generation_tokens_total{{{JOB}}}[$__rate_interval]))"
                            ),
                            legend="generated",
                        ),
                    ),
                ),
                Panel(
                    title="KV cache in use",
                    description="If it is full, requests wait.",
                    unit="percentunit",
                    queries=(
                        Query(text=f"max(vllm:kv_cache_usage_perc{{{JOB}}})", legend="in use"),
                    ),
                ),
            ),
        ),
    ),
)
