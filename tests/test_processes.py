import os
import signal
import subprocess
import sys

import pytest
from processes import Child, children_end, is_there, take_signals, until

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def test_children_have_default_signals_whatever_the_tests_inherited():
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        take_signals()
        code = (
            "import signal, sys; print(*(signal.getsignal(int(n)) is signal.SIG_IGN for n in sys.argv[1:]))"
        )
        words = [sys.executable, "-c", code, *(str(int(number)) for number in SIGNALS)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert set(said.split()) == {"False"}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no groups of processes")
@pytest.mark.parametrize("leader", ["waits", "has ended"])
def test_a_child_ends_with_its_group_when_its_test_does(leader):
    """Also one that minds no SIGTERM, and one that its own child outlives."""
    wait = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    end = "p.wait()" if leader == "waits" else "p.stdout.readline()"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {wait!r}], stdout=-1); {end}"
    fixture = children_end()
    next(fixture)
    child = subprocess.Popen([sys.executable, "-c", code])
    assert isinstance(child, Child)
    if leader == "has ended":
        child.wait()
    os.killpg(child.pid, 0)
    assert next(fixture, None) is None
    until(lambda: not is_there(child.pid))
