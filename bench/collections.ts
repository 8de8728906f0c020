/** Garbage collections that a server's threads were stopped for because they had allocated, by what `node --trace-gc` prints. */
export function countScavenges (output: string): number {
  return output.match(/^\[\d+:0x[0-9a-f]+\] .* ms: Scavenge .* allocation failure/gm)?.length ?? 0
}
