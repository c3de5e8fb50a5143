"""What `make mutants` makes of mutmut's answers, and what is written down of the faults that nobody notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.modules import MODULES
from tests.mutants.survivors import Change, change_of, explained

ROOT = Path(__file__).parents[2]
DIFF = """\
# shared.webhooks.signatures.x__seconds__mutmut_2: survived
--- shared/webhooks/signatures.py
+++ shared/webhooks/signatures.py
@@ -1,4 +1,4 @@
 def _seconds(timestamp: datetime) -> int:
-    if timestamp.utcoffset() is None:
+    if timestamp.utcoffset() is not None:
         raise SigningError("A webhook's timestamp must have a time zone.")
"""


def test_a_fault_is_read_out_of_its_diff() -> None:
    change = change_of(DIFF)
    assert change == Change(
        "shared/webhooks/signatures.py", "if timestamp.utcoffset() is None:", "if timestamp.utcoffset() is not None:"
    )
    assert not change.of_words_alone


@pytest.mark.parametrize(
    ("became", "words"),
    [
        ('raise Error("XXToo small.XX")', True),
        ('raise Error("too small.")', True),
        ('raise Error("TOO SMALL.")', True),
        ("raise Error(None)", False),
        ('raise Error("Too large.")', False),
    ],
)
def test_a_text_that_only_reads_otherwise_is_told_apart(became: str, words: bool) -> None:
    assert Change("a.py", 'raise Error("Too small.")', became).of_words_alone == words


def test_a_name_is_no_sentence() -> None:
    assert not Change("a.py", '{"timestamp": timestamp(now)}', '{"XXtimestampXX": timestamp(now)}').of_words_alone
    assert not Change("a.py", '{"webhook-id": name}', '{"WEBHOOK-ID": name}').of_words_alone


def test_what_is_explained_is_still_there() -> None:
    known = explained()
    assert known
    for each in known:
        source = [line.strip() for line in (ROOT / each.change.file).read_text().splitlines()]
        assert set(each.change.was.splitlines()) <= {*source}, each.change
        assert each.change.file in {file for module in MODULES.values() for file in module.files}
        assert each.why


def test_the_files_and_tests_of_each_module_are_there() -> None:
    for module in MODULES.values():
        assert module.files
        assert module.tests
        assert all((ROOT / name.partition("::")[0]).is_file() for name in (*module.files, *module.tests))
