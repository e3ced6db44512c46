// The official openai package for JavaScript: the `suffice` field is sent like any other, the receipt is on the last
// chunk. Needs OPENAI_BASE_URL and OPENAI_API_KEY, as the gateway prints them, and `npm install openai`.

import OpenAI from "openai";

const client = new OpenAI();
const model = (await client.models.list()).data[0].id;

const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "What is 17 + 25?" }],
  stream: true,
  stream_options: { include_usage: true },
  suffice: { budget: { total_tokens: 256, thinking_tokens: 128 } },
});

let receipt;
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  receipt = chunk.suffice ?? receipt;
}
console.log(`\n\n${JSON.stringify(receipt, null, 2)}`);
