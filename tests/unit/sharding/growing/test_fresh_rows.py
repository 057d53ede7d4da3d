import torch

from dlrm.sharding.growing.fresh_rows import FreshRows, TablePart


def test_rows_start_anew_with_the_weights_and_the_state_that_tables_start_with():
    """Of two parts of a table, as far as they hold them; other rows stay as they are."""
    weights = [torch.full((4, 2), 7.0), torch.full((4, 2), 7.0)]
    states = [torch.full((4, 2), 7.0), torch.full((4,), 7.0)]
    parts = [TablePart(row, 0, [weights[i]], [states[i]]) for i, row in enumerate((0, 4))]

    def initial(table, rows_N, first_column, columns):
        return rows_N[:, None].float().expand(-1, columns)

    FreshRows({"a": parts}, initial, initial_state=0.25).start_anew("a", torch.tensor([1, 6]))
    assert weights[0].tolist() == [[7, 7], [1, 1], [7, 7], [7, 7]]
    assert weights[1].tolist() == [[7, 7], [7, 7], [6, 6], [7, 7]]
    assert states[0].tolist() == [[7, 7], [0.25, 0.25], [7, 7], [7, 7]]
    assert states[1].tolist() == [7, 7, 0.25, 7]
