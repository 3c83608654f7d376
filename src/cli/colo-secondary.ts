#!/usr/bin/env node
/** `colo-secondary`: the agent of the secondary host. */
import { startSecondary } from '../secondary/index.js';
import { runDaemon } from './daemon.js';

await runDaemon('secondary', startSecondary);
