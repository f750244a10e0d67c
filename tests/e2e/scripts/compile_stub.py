"""Compile and load a C extension as the user of the pod, like Triton at the start of training."""

import importlib.util
import json
import subprocess
import sysconfig
from pathlib import Path

SOURCE = """
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "stub", NULL, -1, methods};
PyMODINIT_FUNC PyInit_stub(void) { return PyModule_Create(&module); }
"""

folder = Path("/tmp/stub")
folder.mkdir()
(folder / "stub.c").write_text(SOURCE)
library = folder / f"stub{sysconfig.get_config_var('EXT_SUFFIX')}"
headers = sysconfig.get_paths()["include"]
subprocess.run(
    ["gcc", "-shared", "-fPIC", f"-I{headers}", str(folder / "stub.c"), "-o", str(library)],
    check=True,
)
spec = importlib.util.spec_from_file_location("stub", library)
assert spec is not None
assert spec.loader is not None
stub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stub)
print("RESULT " + json.dumps({"answer": stub.answer()}))
