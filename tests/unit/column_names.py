"""Names that somebody may give a column, each with a reason why it could go wrong."""

ATTRIBUTES_OF_MODULES = """
type items keys values pop update clear training forward parameters modules children buffers add_module
register_parameter state_dict load_state_dict float half double to cuda cpu eval train apply share_memory
_modules _parameters _buffers __class__ __dict__ __init__ __call__ T_destination dump_patches
""".split()  # noqa: SIM905  # ruff wants lists, which are four times as long
PARTS_OF_OUR_NAMES = """
tables embedding_bags bottom_mlp interaction top_mlp weight average average.steps model.tables optimizer kind
a.weight a.optimizer.sum .optimizer. touched.a.0_0 reduced.a @0,0 t_a column% column%type column%user%2Eid
""".split()  # noqa: SIM905  # ruff wants lists, which are four times as long
FOR_PARSERS = ["", " ", ".", "..", "a.b", "user.id", ".hidden", "trailing.", "a/b", "../../etc/passwd", "/root", "C:\\x",
               "a,b", "[1, 2]", "{a: b}", "null", "~", "true", "no", "1", "1e3", "0x10", "<<", "=", "!tag", "&a", "*a",
               "a: b", "# a", "'", '"', "%", "%s", "{}", "{0}", "$x^$", "$", "a@b",
               "a|b", "-", "--data.path", "a=b"]  # fmt: skip
FOR_SCREENS = ["<script>alert(1)</script>", "&lt;", "[bold]x[/bold]", "[/]", ":smile:", "\x1b[31mred", "\x1b]0;title\x07",
               "two\nlines", "back\r", "\b\b\b", "tab\t", "nul\0nul", "\x7f", "\x9b2J", "\u202egnp.exe", "\u2028", "\ufeff",
               "\u200b"]  # fmt: skip
IN_OTHER_WORDS = ["größe", "価格", "цена", "e\u0301", "\u00e9", "🙂", "İ", "ﬁ", "x" * 2000, "ж" * 500]
COLUMN_NAMES = list(
    dict.fromkeys([*ATTRIBUTES_OF_MODULES, *PARTS_OF_OUR_NAMES, *FOR_PARSERS, *FOR_SCREENS, *IN_OTHER_WORDS])
)
assert len(COLUMN_NAMES) > 120
