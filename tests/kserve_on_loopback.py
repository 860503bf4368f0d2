"""Starts our KServe server on 127.0.0.1; its own host is every address.

Runs in the environment of KServe, which has neither Keras nor TensorFlow.
"""

import uvicorn

from keras_lficam.serving import transformer

if __name__ == "__main__":
    make = uvicorn.Config
    uvicorn.Config = lambda app, host, **options: make(
        app, host="127.0.0.1", **options
    )
    transformer.main()
