// node main.mjs <library> < party.json: ends with 0 if the library got everything it asked for.
import { text } from 'node:stream/consumers';
import './party.mjs';

const { run } = await import(`./${process.argv[2]}.mjs`);
await run(JSON.parse(await text(process.stdin)));
