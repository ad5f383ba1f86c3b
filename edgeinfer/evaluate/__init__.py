"""What a build of a model is worth: how well it predicts a text, how far it is from a reference, how it fares on small
tasks, how large and how fast it is.

    evaluate([Side.parse("a.gguf"), Side.parse("b.gguf")], Plan(scope, questions), Side.parse("f16.gguf")) -> rows

`run` measures, `tasks` has the questions, `report` the rows and the gates, `plot` draws quality against size and speed.
"""

from edgeinfer.evaluate.report import Gate, Row
from edgeinfer.evaluate.run import Plan, evaluate, examine
from edgeinfer.evaluate.tasks import SETS, questions

__all__ = ["SETS", "Gate", "Plan", "Row", "evaluate", "examine", "questions"]
