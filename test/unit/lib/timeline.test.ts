import test from 'ava';
import { Timeline } from '../../../src/lib/index.js';

test('a part lasts from the mark before it, and adds up when it comes again', (t) => {
  const timeline = new Timeline(1000);
  timeline.mark('save', 1010);
  timeline.mark('send', 1110);
  timeline.mark('save', 1115);
  t.deepEqual(timeline.partsUs, { save: 15, send: 100 });
  t.deepEqual(Object.keys(timeline.partsUs), ['save', 'send']);
});
