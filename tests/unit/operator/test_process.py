"""What the process of the operator loads."""

import subprocess
import sys


def test_the_operator_does_not_load_the_library_that_signs_its_certificate() -> None:
    """It would need 10 MiB in every replica."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import finetune_operator.app\n"
        "assert 'finetune_operator.metrics_server.certificate' in sys.modules\n"
        "assert 'cryptography' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
