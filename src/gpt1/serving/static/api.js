// Requests to the server this page comes from, and to no other.

import { capital } from "./dom.js";

const TOKEN = "gpt1-token"; // kept until the tab is closed

/** An answer that is an error, with the server's own sentence. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** GET a path, or POST a body to it, as JSON. */
export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** POST a body; yield the server-sent events of the answer. Throws a Refusal if it breaks off. */
export async function* stream(path, body, signal) {
  const reader = (await send(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (signal.aborted) throw error;
      return { done: true };
    });
    if (done) throw new Refusal(0, "The server has gone before the text was complete.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice("data: ".length));
      if (event.error) throw new Refusal(500, sentence(event.error.message));
      yield event;
    }
  }
}

async function send(path, body, signal) {
  const token = sessionStorage.getItem(TOKEN);
  // A header holds bytes, each of which fetch takes as a character.
  const bytes = String.fromCharCode(...new TextEncoder().encode(token ?? ""));
  const headers = token ? { Authorization: `Bearer ${bytes}` } : {};
  const content = body && JSON.stringify(body);
  const how = body
    ? { method: "POST", body: content, headers: { ...headers, "Content-Type": "application/json" } }
    : { headers };
  let answer;
  try {
    answer = await fetch(path, { ...how, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const size = content ? new Blob([content]).size : 0;
    const why = size > 50_000 ? ` Its request had ${size.toLocaleString("en")} bytes, which may be too many.` : "";
    throw new Refusal(0, `The server does not answer. Is gpt1 serve still running?${why}`);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Refusal(
    answer.status,
    sentence(told?.error?.message ?? `The server answered with status ${answer.status}`),
  );
}

function sentence(text) {
  return `${capital(text)}.`;
}
