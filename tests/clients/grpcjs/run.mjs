// Runs every check of checks.mjs and prints what became of it, as tests/clients/checks.py wants it.

import * as checks from "./checks.mjs";
import { Server } from "./server.mjs";

const PATIENCE = 60_000; // milliseconds that a check may take; what hangs must not keep the others from running

function patient(check) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the check hangs")), PATIENCE);
  });
  return Promise.race([check, late]).finally(() => clearTimeout(timer));
}

const server = new Server(...process.argv.slice(2));
for (const [name, check] of Object.entries(checks)) {
  let failure = "";
  try {
    await patient(check(server));
  } catch (error) {
    failure = error.stack;
  }
  console.log(JSON.stringify({ check: name.replace("check_", ""), failure }));
}
process.exit(); // whatever a check has left open
