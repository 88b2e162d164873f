// Loaded into Next.js before anything else: its clock is as far ahead as the file of the tests says.
import { readFileSync } from "node:fs";

const now = Date.now;
Date.now = () => now() + 1000 * Number(readFileSync(process.env.CLOCK_AHEAD, "utf8"));
