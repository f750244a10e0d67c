"""One job, from what its trainer pods report."""

from dashboards.panels import JOB, Dashboard, Panel, Query, of_job

JOB_BOARD = Dashboard(
    name="job",
    title="FineTune / Job",
    description="One job while its pods run: progress, loss, speed and memory.",
    variables=of_job("finetune_stage_info"),
    rows=(
        (
            "Progress",
            (
                Panel(
                    title="Progress",
                    description="Completed part of the running stage.",
                    unit="percentunit",
                    queries=(
                        Query(
                            text=(
                                f"max by (stage) (finetune_progress_ratio{{{JOB}}} "
                                "* on (pod) group_left (stage) finetune_stage_info)"
                            ),
                            legend="{{stage}}",
                        ),
                    ),
                ),
                Panel(
                    title="Remaining time",
                    description="As the trainer estimates it from the speed of this attempt.",
                    unit="s",
                    kind="stat",
                    queries=(Query(text=f"max(finetune_eta_seconds{{{JOB}}})", instant=True),),
                ),
                Panel(
                    title="Age of the newest checkpoint",
                    description="What a killed pod would have to train again.",
                    unit="s",
                    queries=(
                        Query(text=f"max(finetune_checkpoint_age_seconds{{{JOB}}})", legend="age"),
                    ),
                ),
            ),
        ),
        (
            "Training",
            (
                Panel(
                    title="Loss",
                    description="On the training rows and on the held-out rows.",
                    queries=(
                        Query(text=f"max(finetune_train_loss{{{JOB}}})", legend="training"),
                        Query(text=f"max(finetune_eval_loss{{{JOB}}})", legend="held out"),
                    ),
                ),
                Panel(
                    title="Learning rate",
                    description="In the last logged step.",
                    unit="sci",
                    queries=(
                        Query(text=f"max(finetune_learning_rate{{{JOB}}})", legend="learning rate"),
                    ),
                ),
                Panel(
                    title="Norm of the gradient",
                    description="Before clipping. A growing norm announces a diverging loss.",
                    queries=(Query(text=f"max(finetune_grad_norm{{{JOB}}})", legend="norm"),),
                ),
                Panel(
                    title="Tokens per second",
                    description="Throughput of the training.",
                    queries=(
                        Query(text=f"max(finetune_tokens_per_second{{{JOB}}})", legend="tokens/s"),
                    ),
                ),
                Panel(
                    title="Waiting for rows",
                    description="Part of the time in which the GPU waits for the CPU.",
                    unit="percentunit",
                    queries=(
                        Query(
                            text=(
                                f"max(rate(finetune_data_wait_seconds_total{{{JOB}}}"
                                "[$__rate_interval]))"
                            ),
                            legend="waiting",
                        ),
                    ),
                ),
                Panel(
                    title="GPU memory",
                    description="Highest amount that was allocated. Absent without a GPU.",
                    unit="bytes",
                    queries=(
                        Query(text=f"max(finetune_gpu_memory_peak_bytes{{{JOB}}})", legend="peak"),
                    ),
                ),
            ),
        ),
    ),
)
