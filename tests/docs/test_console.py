"""Commands on a page are found, and their shown output is compared up to numbers and times."""

from __future__ import annotations

import pytest

from tests.docs.console import Command, NewFile, Skipped, matches, steps

PAGE = """
<!-- file: job.yaml -->
```yaml
name: a
```

```console
$ ls
job.yaml
$ cat job.yaml
name: a
```

```python
print()
```

<!-- not run: takes days -->
```console
$ sleep 1000000
```
"""


def test_steps_are_the_blocks_in_order() -> None:
    assert list(steps(PAGE)) == [
        NewFile("job.yaml", "name: a\n"),
        Command("ls", "job.yaml\n"),
        Command("cat job.yaml", "name: a\n"),
        Skipped("takes days", "$ sleep 1000000\n"),
    ]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("12:00:01 a: loss 2.5e-3\n", "23:59:59 a: loss 7\n"),
        ("key 4529d7c6\n", "key 00c0ffee\n"),
        ("| stage | top1 |\n|-------|------|\n", "| stage   |    top1 |\n|---------|---------|\n"),
        ("first\n...\nlast\n", "first\nlast\n"),
        ("first\n...\nlast\n", "first\na\nb\nlast\n"),
        ("took ... s\n", "took a long s\n"),
    ],
)
def test_shown_output_matches_up_to_numbers(shown: str, printed: str) -> None:
    assert matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("first\nlast\n", "first\nmore\nlast\n"),
        ("first\n...\nlast\n", "first\n"),
        ("done\n", "failed\n"),
        ("took ... s\n", "took a\nlong s\n"),
        ("", "a warning\n"),
    ],
)
def test_other_output_does_not_match(shown: str, printed: str) -> None:
    assert not matches(shown, printed)
