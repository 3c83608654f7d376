export { SystemCallError } from './libc.js';
