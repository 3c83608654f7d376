#!/usr/bin/env node
/** `colo-primary`: the agent of the primary host. */
import { startPrimary } from '../primary/index.js';
import { runDaemon } from './daemon.js';

await runDaemon('primary', startPrimary);
