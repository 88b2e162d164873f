// @vitest-environment jsdom
import { behavesWith } from "./behaviours.ts";

behavesWith("xhr");
