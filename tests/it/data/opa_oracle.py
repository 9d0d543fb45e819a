"""Answers policies with OPA's own engine: one JSON request a line in, one JSON answer a line out.

A request is {"modules": [text], "query": path, "inputs": [document]}; an answer is a list with
{"value": ..}, {"undefined": true} or {"error": text} for each input, or {"refused": text}.
"""

import json
import sys

from opa_bindings import OpaEngine, OpaError, OpaUndefinedError


def answer(engine, query, document):
    try:
        return {"value": engine.eval_document(query, document)}
    except OpaUndefinedError:
        return {"undefined": True}
    except OpaError as error:
        refused = error.code not in ("eval_error",)
        return {"refused" if refused else "error": str(error)}


for line in sys.stdin:
    request = json.loads(line)
    engine = OpaEngine()
    try:
        for index, text in enumerate(request["modules"]):
            engine.add_policy(f"m{index}.rego", text)
        answers = [answer(engine, request["query"], document) for document in request["inputs"]]
    except OpaError as error:
        answers = {"refused": str(error)}
    finally:
        engine.close()
    print(json.dumps(answers), flush=True)
