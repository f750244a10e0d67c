"""Exit codes: terminal ones, and the reasons that the trainer reports with them."""

from collections.abc import Iterator

from finetune_api.contracts.exitcodes import FINAL, ExitCode
from finetune_trainer.errors import Stopped, TrainerError


def _errors(error: type[BaseException]) -> Iterator[type[BaseException]]:
    yield error
    for derived in error.__subclasses__():
        yield from _errors(derived)


def test_terminal_exit_codes() -> None:
    """The podFailurePolicy of existing Jobs contains this list: codes may only be added."""
    assert FINAL == (64, 65, 66, 73, 77, 78, 80, 81, 82, 83, 84, 85, 86, 87)
    retried = {ExitCode.COMPLETED, ExitCode.INTERNAL_ERROR, ExitCode.TRANSIENT, ExitCode.STOPPED}
    assert not retried & set(FINAL)


def test_every_error_of_the_trainer_has_a_reason_of_its_exit_code() -> None:
    errors = [error for error in (*_errors(TrainerError), Stopped) if "reason" in vars(error)]
    for error in errors:
        assert error.reason in error.code.reasons, error  # type: ignore[attr-defined]
    reported = {error.reason for error in errors}  # type: ignore[attr-defined]
    documented = {reason for code in ExitCode for reason in code.reasons}
    assert documented - reported == {"Completed", "VerificationFailed"}
