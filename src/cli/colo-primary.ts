#!/usr/bin/env node
/** `colo-primary`: the agent of the primary host. */
import { startNode } from '../node/index.js';
import { runDaemon } from './daemon.js';

await runDaemon('primary', startNode);
