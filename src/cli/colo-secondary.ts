#!/usr/bin/env node
/** `colo-secondary`: the agent of the secondary host. */
import { startNode } from '../node/index.js';
import { runDaemon } from './daemon.js';

await runDaemon('secondary', startNode);
