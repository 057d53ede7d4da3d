from dlrm.run.console import Console, Status, plan_table, progress_line
from dlrm.sharding.report import TablePlacement


def test_a_line_of_progress_has_bar_steps_loss_speed_and_time_left():
    status = Status(step=50, total_steps=200, loss=0.45678, samples_per_s=12345.6, activity="training")
    line = progress_line(status, left_s=75)
    assert line == "training [######..................] 50/200 steps  loss 0.4568  12,346 samples/s  1:15 left"


def test_the_first_line_of_progress_needs_no_loss_and_no_time():
    assert progress_line(Status(0, 10, None, 0.0, "training"), None).endswith("0/10 steps  0 samples/s")


def test_without_a_terminal_progress_is_a_line_now_and_then_and_at_the_end(capsys):
    console = Console(progress=True)
    for step in range(1, 101):
        console.status(Status(step, 100, 0.5, 10.0, "training"))
    console.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "1/100" in lines[0]
    assert "100/100" in lines[1]


def test_progress_can_be_switched_off(capsys):
    console = Console(progress=False)
    console.status(Status(1, 1, 0.5, 10.0, "training"))
    assert capsys.readouterr().out == ""


def test_the_plan_names_every_table_and_sums_the_memory_of_each_rank(capsys):
    placements = [
        TablePlacement("cat_0", 1000, 16, "row_wise", "fused", (1.5, 1.5)),
        TablePlacement("cat_1", 10, 16, "table_wise", "fused", (0.0, 0.25)),
    ]
    Console(progress=True).show(plan_table(placements))
    shown = capsys.readouterr().out
    for part in ("cat_0", "1,000", "row_wise", "0,1", "cat_1", "table_wise", "2 tables", "1,010", "1.500 - 1.750"):
        assert part in shown


def test_names_are_shown_as_they_are_and_do_nothing(capsys):
    names = ["[bold]x[/bold]", "[/]", ":smile:", "\x1b[31mred", "two\nlines", "x" * 3000]
    console = Console(progress=True)
    console.show(plan_table([TablePlacement(name, 1000, 16, "row_wise", "fused", (1.5, 1.5)) for name in names]))
    console.say(f"warning: {names[0]} {names[2]} {names[3]}")
    lines = capsys.readouterr().out.split("\n")
    assert all(line.isprintable() for line in lines)
    shown = [line.split("│")[1].strip() for line in lines if line.count("│") > 2]
    assert shown[:5] == ["[bold]x[/bold]", "[/]", ":smile:", r"\x1b[31mred", r"two\nlines"]
    assert lines[-2] == r"warning: [bold]x[/bold] :smile: \x1b[31mred"
