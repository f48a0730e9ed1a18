"""llama.cpp's own server out of the wheel `xllamacpp`, for machines without its programs; run by `engine.py`.

Takes those options of `llama-server` that the benchmark uses, with their meaning, and serves until it is terminated.
Needs nothing but `pip install xllamacpp`.
"""

import argparse
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", required=True, metavar="FILE")
    parser.add_argument("-c", type=int, required=True, help="tokens that all slots may hold together")
    parser.add_argument("-np", type=int, required=True, help="slots")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = options.m, options.c, options.np
    params.hostnames, params.port = [options.host], options.port
    params.cont_batching = params.cache_prompt = True  # as llama-server has them unless told otherwise
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pause()


if __name__ == "__main__":
    main()
