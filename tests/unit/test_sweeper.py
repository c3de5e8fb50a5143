"""What a sweep remembers between looks."""

from __future__ import annotations

from worker.maintenance.sweeper import Lasting


def test_only_what_was_there_at_every_look_for_long_enough_has_lasted():
    lasting: Lasting[str] = Lasting(300)
    for now in range(0, 300, 2):
        assert lasting.look({"strict", "lax"}, now) == set()
    assert lasting.look({"strict"}, 300) == {"strict"}
    assert lasting.look({"strict", "lax"}, 302) == {"strict"}  # lax was away for a moment
    assert lasting.look(set(), 304) == set()
    assert lasting.look({"strict"}, 306) == set()


def test_who_did_not_look_for_a_while_begins_anew():
    lasting: Lasting[str] = Lasting(300)
    lasting.look({"strict"}, 1000)
    assert lasting.look({"strict"}, 1400) == set()  # frozen, perhaps: who knows what was there meanwhile
    for now in range(1402, 1700, 2):
        assert lasting.look({"strict"}, now) == set()
    assert lasting.look({"strict"}, 1700) == {"strict"}
