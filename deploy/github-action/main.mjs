// Gets a credential and hands it to the following steps, or runs one command under `dayfly exec`.
import { spawn, spawnSync } from "node:child_process";
import { appendFileSync, chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] ?? "").trim();
const fail = (text, code = 1) => {
  console.log(`::error title=Dayfly::${text.replaceAll("%", "%25").replaceAll("\n", "%0A")}`);
  process.exit(code);
};
// A delimiter that the value cannot contain, so that a value cannot add a variable of its own.
const append = (file, name, value) => {
  const delimiter = `dayfly-${randomUUID()}`;
  appendFileSync(file, `${name}<<${delimiter}\n${value}\n${delimiter}\n`);
};
const mask = (value) => console.log(`::add-mask::${value}`);

const dayfly = input("dayfly") || "dayfly";
const ask = ["--url", input("url"), "--agent", input("agent"), "--mission", input("mission"), "--target", input("target"), "--goal", input("goal")];
if (process.env.GITHUB_RUN_ID) {
  ask.push("--task", `github-${process.env.GITHUB_RUN_ID}-${process.env.GITHUB_RUN_ATTEMPT ?? "1"}`);
}

if (input("command")) {
  const child = spawn(dayfly, ["exec", ...ask, "--", "bash", "-euo", "pipefail", "-c", input("command")], {
    stdio: "inherit",
  });
  // A cancelled job signals this process alone: the command must hear of it, and what it held is released.
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
  child.on("error", (error) => fail(`${dayfly} cannot be started: ${error.message}`));
  const code = await new Promise((done) => child.on("exit", (code) => done(code ?? 1)));
  process.exit(code);
}

const run = spawnSync(dayfly, ["token", "-o", "json", ...ask], { encoding: "utf8" });
if (run.error) fail(`${dayfly} cannot be started: ${run.error.message}`);
if (run.status !== 0) fail(run.stderr.trim() || "no credential", run.status ?? 1);
const answer = JSON.parse(run.stdout);

mask(answer.access_token);
const credential = answer.credential ?? {};
for (const [name, value] of Object.entries(credential)) {
  if (typeof value === "string" && !["type", "expiration"].includes(name)) mask(value);
}

const folder = mkdtempSync(join(process.env.RUNNER_TEMP ?? tmpdir(), "dayfly-"));
const handle = join(folder, "handle");
writeFileSync(handle, answer.access_token, { mode: 0o600 });
chmodSync(folder, 0o700);
append(process.env.GITHUB_STATE, "handle", handle);
append(process.env.GITHUB_STATE, "url", input("url"));
append(process.env.GITHUB_STATE, "dayfly", dayfly);

if (credential.type === "aws_session") {
  append(process.env.GITHUB_ENV, "AWS_ACCESS_KEY_ID", credential.access_key_id);
  append(process.env.GITHUB_ENV, "AWS_SECRET_ACCESS_KEY", credential.secret_access_key);
  append(process.env.GITHUB_ENV, "AWS_SESSION_TOKEN", credential.session_token);
} else {
  const name = `DAYFLY_TOKEN_${input("target").toUpperCase().replaceAll(/[^A-Z0-9]/g, "_")}_FILE`;
  append(process.env.GITHUB_ENV, name, handle);
}
append(process.env.GITHUB_OUTPUT, "lease", answer.lease_id);
append(process.env.GITHUB_OUTPUT, "expires-in", String(answer.expires_in));
console.log(`lease ${answer.lease_id}, ${answer.expires_in} s, revocation class ${answer.revocation.class}`);
