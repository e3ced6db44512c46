// Drives a suffice gateway with the official `openai` package and prints what it saw as one JSON object.
// Expectations are the reader's: this only reports. A request that fails unexpectedly ends it with status 1.
//
//   OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-suffice-... node conformance.mjs

import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0, timeout: 120_000 });
const model = process.env.SUFFICE_MODEL ?? (await client.models.list()).data[0].id;

const total_tokens = 96;
const suffice = { budget: { total_tokens, thinking_tokens: 48 } };
const roomy = { budget: { total_tokens: 256, thinking_tokens: 32 } };
const messages = [{ role: "user", content: "What is 3 + 4?" }];
const chat = { model, messages, suffice };
const unit = {
  type: "object",
  properties: { unit: { type: "string", enum: ["celsius", "kelvin"] } },
  required: ["unit"],
  additionalProperties: false,
};
const withTools = {
  model,
  messages: [{ role: "user", content: "What is the weather?" }],
  tools: [{ type: "function", function: { name: "weather", description: "Tells it.", strict: true, parameters: unit } }],
  tool_choice: "required",
  parallel_tool_calls: false,
  temperature: 0,
  suffice: roomy,
};

async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

// What a message or delta says, thought or answered: how much of each is up to the model.
const said = (part) => (part?.reasoning ?? "") + (part?.content ?? "");

async function errorOf(request) {
  try {
    await request();
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    const { status, code, param, type } = error;
    return { name: error.constructor.name, status, code, param, type, message: error.message };
  }
  throw new Error("an error was expected and none came");
}

const cases = {
  async chat() {
    const answer = await client.chat.completions.create(chat);
    const [{ message, finish_reason }] = answer.choices;
    return { said: said(message), finish_reason, usage: answer.usage, suffice: answer.suffice };
  },

  async chat_stream() {
    const chunks = await collect(
      await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } }),
    );
    const last = chunks.at(-1);
    return {
      said: chunks.map((chunk) => said(chunk.choices[0]?.delta)).join(""),
      chunks: chunks.length,
      chunks_with_receipt: chunks.flatMap((chunk, index) => (chunk.suffice ? [index] : [])),
      last_choices: last.choices.length,
      usage: last.usage,
      suffice: last.suffice,
    };
  },

  async chat_stream_without_usage() {
    const chunks = await collect(await client.chat.completions.create({ ...chat, stream: true }));
    return {
      chunks_with_usage: chunks.filter((chunk) => chunk.usage).length,
      chunks_without_choices: chunks.filter((chunk) => chunk.choices.length === 0).length,
    };
  },

  async two_samples() {
    const answer = await client.chat.completions.create({ ...chat, n: 2, temperature: 1 });
    return { indices: answer.choices.map((choice) => choice.index), usage: answer.usage, suffice: answer.suffice };
  },

  async two_samples_stream() {
    const chunks = await collect(await client.chat.completions.create({ ...chat, n: 2, temperature: 1, stream: true }));
    const choices = chunks.flatMap((chunk) => chunk.choices);
    return { ended: choices.filter((choice) => choice.finish_reason).map((choice) => choice.index).sort() };
  },

  async tools() {
    const answer = await client.chat.completions.create(withTools);
    return answer.choices[0].message.tool_calls[0].function;
  },

  async tools_stream() {
    const chunks = await collect(await client.chat.completions.create({ ...withTools, stream: true }));
    const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta?.tool_calls ?? []);
    return {
      name: calls.map((call) => call.function?.name ?? "").join(""),
      arguments: calls.map((call) => call.function?.arguments ?? "").join(""),
    };
  },

  async json_schema() {
    const response_format = { type: "json_schema", json_schema: { name: "unit", schema: unit, strict: true } };
    const answer = await client.chat.completions.create({ ...chat, suffice: roomy, response_format });
    return { content: answer.choices[0].message.content };
  },

  async completion() {
    const answer = await client.completions.create({ model, prompt: "3 + 4 =", max_tokens: 32, suffice });
    return { usage: answer.usage, suffice: answer.suffice };
  },

  async response() {
    const answer = await client.responses.create({ model, input: "What is 3 + 4?", max_output_tokens: 64, suffice });
    return { status: answer.status, usage: answer.usage, suffice: answer.suffice };
  },

  async response_stream() {
    const asked = { model, input: "What is 3 + 4?", max_output_tokens: 64, suffice, stream: true };
    const events = await collect(await client.responses.create(asked));
    return { types: events.map((event) => event.type), suffice: events.at(-1).response?.suffice };
  },

  async models() {
    const ids = (await client.models.list()).data.map((entry) => entry.id);
    return { listed: ids.includes(model) };
  },

  async errors() {
    const stranger = client.withOptions({ apiKey: "sk-suffice-wrong" });
    const unknown = { ...chat, suffice: { budgit: {} } };
    return {
      unknown_model: await errorOf(() => client.chat.completions.create({ ...chat, model: "no-such-model" })),
      bad_key: await errorOf(() => stranger.chat.completions.create(chat)),
      unknown_key: await errorOf(() => client.chat.completions.create(unknown)),
      unknown_key_stream: await errorOf(() => client.chat.completions.create({ ...unknown, stream: true })),
      embeddings: await errorOf(() => client.embeddings.create({ model, input: "hello", encoding_format: "float" })),
    };
  },
};

const seen = { model, total_tokens };
for (const [name, run] of Object.entries(cases)) {
  try {
    seen[name] = await run();
  } catch (error) {
    console.error(`case ${name}: ${error.stack}`);
    process.exit(1);
  }
}
console.log(JSON.stringify(seen));
