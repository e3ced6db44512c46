"""The rules' home inside vLLM: a logits processor and a few routes, installed by ``suffice[vllm]``.

vLLM finds both by their entry points. The processor (``processor.SufficeProcessor``) is always loaded and idle until a
request names it in ``vllm_xargs``; the routes (``endpoints.SufficeEndpoints``) only where ``VLLM_PLUGINS`` names
``suffice``. What each file may import:

    arguments, table, steering    the standard library and suffice.policies
    measuring                     torch
    setting                       vllm, inside functions
    processor, endpoints          vllm, torch; fastapi as vLLM brings it
    discovery                     the standard library: it is the gateway's side of the routes

What must not be here: the gateway's dependencies. The engine's environment has none of them.
"""
