// Draws, edits and fails with the npm clients, against the server at SMALTI_URL. Prints a word for each that works.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { generateImage } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const baseURL = process.env.SMALTI_URL + "/v1";
const apiKey = process.env.SMALTI_KEY;
const isPng = (bytes) => Buffer.from(bytes).subarray(1, 4).toString() === "PNG";

async function openaiClient() {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const drawn = await client.images.generate({ model: "gpt-image-1", prompt: "a red circle", seed: 5 });
  const png = Buffer.from(drawn.data[0].b64_json, "base64");
  assert(isPng(png));
  assert.equal(drawn.data[0].seed, 5);

  const image = await toFile(png, "scene.png", { type: "image/png" });
  const edited = await client.images.edit({ model: "gpt-image-1", image, prompt: "a blue square", strength: 0.5 });
  assert(isPng(Buffer.from(edited.data[0].b64_json, "base64")));

  const kinds = [];
  const stream = await client.images.generate({ prompt: "a red circle", stream: true, partial_images: 2 });
  for await (const event of stream) kinds.push(event.type);
  assert.deepEqual(kinds, [
    "image_generation.partial_image",
    "image_generation.partial_image",
    "image_generation.completed",
  ]);

  await assert.rejects(client.images.generate({ prompt: "a red circle", n: 11 }), (error) => {
    assert(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    return true;
  });
  assert.equal((await client.models.list()).data.length, 2);
}

async function aiClient() {
  const provider = createOpenAICompatible({ name: "smalti", baseURL, apiKey });
  const model = provider.imageModel("gpt-image-1");
  const drawn = await generateImage({
    model,
    prompt: "a red circle",
    n: 2,
    size: "128x128",
    providerOptions: { smalti: { seed: 3, num_inference_steps: 4 } },
  });
  assert.equal(drawn.images.length, 2);
  assert(isPng(drawn.images[0].uint8Array));
  const edited = await generateImage({
    model,
    prompt: { text: "a blue square", images: [drawn.images[0].uint8Array] },
    providerOptions: { smalti: { strength: 0.5 } },
  });
  assert(isPng(edited.images[0].uint8Array));
  await assert.rejects(generateImage({ model, prompt: "a", size: "1x1", maxRetries: 0 }), /size/);
  const abort = new AbortController();
  setTimeout(() => abort.abort(), 5);
  await assert.rejects(generateImage({ model, prompt: "a red circle", n: 8, abortSignal: abort.signal }));
}

await openaiClient();
console.log("openai");
await aiClient();
console.log("ai");
