#!/bin/sh
# A budgeted request and its receipt with curl alone.
# Needs OPENAI_BASE_URL and OPENAI_API_KEY, as the gateway prints them; MODEL is the first one listed unless set.
set -eu

if [ -z "${MODEL:-}" ]; then
  MODEL=$(curl -sS --fail-with-body -H "Authorization: Bearer $OPENAI_API_KEY" "$OPENAI_BASE_URL/models" |
    sed 's/.*"data":[^]]*"id": *"\([^"]*\)".*/\1/')
fi

# -N shows the stream as it comes; its last chunk carries usage and receipt.
curl -sS -N --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -d @- <<EOF
{
  "model": "$MODEL",
  "messages": [{"role": "user", "content": "What is 17 + 25?"}],
  "stream": true,
  "stream_options": {"include_usage": true},
  "suffice": {"budget": {"total_tokens": 256, "thinking_tokens": 128}}
}
EOF
