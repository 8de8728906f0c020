// A module without what a disk module exports.
export const openDisc = 'misspelt'
