"""The endpoints beside generation: health, metrics, models, tokens, embeddings."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fake_vllm import checks, intake, tokenizer

if TYPE_CHECKING:
    from starlette.requests import Request

    from fake_vllm.records import Received
    from fake_vllm.settings import Settings


class Beside:
    """Handlers that read the settings and the records, and change nothing."""

    def __init__(self, settings: Settings, requests: list[Received]) -> None:
        self.settings = settings
        self.requests = requests

    def routes(self) -> list[Route]:
        """All routes of this module."""
        gets = {"/health": self._health, "/version": self._version, "/v1/models": self._models}
        gets["/metrics"] = self._metrics
        posts = {"/tokenize": self._tokenize, "/detokenize": self._detokenize, "/v1/embeddings": self._embeddings}
        posts["/v1/messages/count_tokens"] = self._count_tokens
        found = [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
        return found + [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]

    async def _health(self, request: Request) -> Response:
        return Response(status_code=self.settings.health_status)

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.32.0"})

    async def _models(self, request: Request) -> Response:
        now = int(time.time())
        allowed = ("create_engine", "sampling", "logprobs", "search_indices", "view", "fine_tuning")
        permission = {"id": f"modelperm-{uuid.uuid4().hex[:16]}", "object": "model_permission", "created": now}
        permission |= {f"allow_{name}": name in ("sampling", "logprobs", "view") for name in allowed}
        permission |= {"organization": "*", "group": None, "is_blocking": False}
        base = self.settings.models[0]
        cards = [
            {"id": name, "object": "model", "created": now, "owned_by": "vllm", "root": f"/models/{name}"}
            | {"parent": None if name == base else base, "max_model_len": self.settings.max_model_len}
            | {"permission": [permission]}
            for name in self.settings.models
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def _metrics(self, request: Request) -> Response:
        settings = self.settings
        label = f'engine="0",model_name="{settings.models[0]}"'
        running = sum(one.outcome == "running" for one in self.requests)
        blocks = settings.kv_cache_tokens // settings.block_size
        cache = f'block_size="{settings.block_size}",engine="0",kv_cache_size_tokens="{settings.kv_cache_tokens}"'
        lines = [
            f"vllm:num_requests_running{{{label}}} {float(running)}",
            f"vllm:num_requests_waiting{{{label}}} {float(settings.waiting)}",
            f'vllm:num_requests_waiting_by_reason{{{label},reason="capacity"}} {float(settings.waiting)}',
            f'vllm:num_requests_waiting_by_reason{{{label},reason="deferred"}} 0.0',
            f"vllm:kv_cache_usage_perc{{{label}}} {settings.kv_cache_usage}",
            f"vllm:num_preemptions_total{{{label}}} 0.0",
            f"vllm:generation_tokens_total{{{label}}} {float(sum(one.generated_tokens for one in self.requests))}",
            f'vllm:cache_config_info{{{cache},num_gpu_blocks="{blocks}"}} 1.0',
        ]
        return PlainTextResponse("".join(f"{line}\n" for line in lines))

    async def _json(self, request: Request) -> dict[str, Any]:
        return checks.read(await request.body(), dict(request.headers))

    async def _tokenize(self, request: Request) -> Response:
        body = await self._json(request)
        chatting = "messages" in body
        checks.types(body, ("messages", (list,)) if chatting else ("prompt", (str,)))
        checks.model(body, self.settings)
        ids = intake.chat_prompt(body, self.settings) if chatting else tokenizer.encode(body["prompt"])
        pieces = [tokenizer.piece_of(number) for number in ids] if body.get("return_token_strs") else None
        found = {"count": len(ids), "max_model_len": self.settings.max_model_len, "tokens": ids}
        return JSONResponse({**found, "token_strs": pieces})

    async def _detokenize(self, request: Request) -> Response:
        body = await self._json(request)
        checks.types(body, ("tokens", (list,)))
        checks.model(body, self.settings)
        return JSONResponse({"prompt": tokenizer.decode(body["tokens"])})

    async def _count_tokens(self, request: Request) -> Response:
        body = await self._json(request)
        checks.types(body, ("model", (str,)), ("messages", (list,)))
        checks.model(body, self.settings)
        ids = intake.chat_prompt(intake.from_messages({**body, "max_tokens": 1 << 30}), self.settings)
        counted = {"input_tokens": len(ids), "context_management": {"original_input_tokens": len(ids)}}
        return JSONResponse(counted)

    async def _embeddings(self, request: Request) -> Response:
        if not self.settings.embeddings:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        body = await self._json(request)
        checks.types(body, ("input", (str, list)))
        name = checks.model(body, self.settings)
        asked = body["input"]
        many = asked if isinstance(asked, list) and asked and not isinstance(asked[0], int) else [asked]
        inputs = [tokenizer.encode(one) if isinstance(one, str) else list(one) for one in many]
        data = []
        for index, ids in enumerate(inputs):
            vector = [float(len(ids)), float(sum(ids) % 97), 1.0, 0.5]
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            value = packed if body.get("encoding_format") == "base64" else vector
            data.append({"index": index, "object": "embedding", "embedding": value})
        prompt = sum(map(len, inputs))
        usage: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0}
        usage |= {"prompt_tokens_details": None, "completion_tokens_details": None}
        head = {"id": f"embd-{uuid.uuid4().hex[:16]}", "object": "list", "created": int(time.time()), "model": name}
        return JSONResponse({**head, "data": data, "usage": usage})
