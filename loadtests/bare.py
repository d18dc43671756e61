"""A process that runs a model in a bare onnxruntime loop, one thread, one text at a time, without padding.

Arguments: the model file, which of how many such processes it is. Each line on standard input asks for one run; the
answer is a line with its figures. It ends when its input does.
"""

import itertools
import json
import sys
import time

import onnxruntime

from loadtests.bodies import lengths, text_inputs

TEXTS = 512


def main(path: str, number: int, processes: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    # the pooled embedding rather than every token's state, as the server answers by default
    outputs = [port.name for port in session.get_outputs() if len(port.shape) == 2] or None
    texts = [text_inputs(names, length) for length in lengths(TEXTS)[number::processes]]
    session.run(outputs, texts[0])
    print(json.dumps({"inputs": names, "outputs": outputs}), flush=True)
    for line in sys.stdin:
        seconds = json.loads(line)["seconds"]
        started = time.perf_counter()
        requests = tokens = 0
        for text in itertools.cycle(texts):
            session.run(outputs, text)
            requests += 1
            tokens += text[names[0]].shape[1]
            if (elapsed := time.perf_counter() - started) >= seconds:
                break
        print(
            json.dumps({"requests_per_second": requests / elapsed, "tokens_per_second": tokens / elapsed}), flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
