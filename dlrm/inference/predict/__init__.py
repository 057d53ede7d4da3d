"""Predict: the probabilities of every row of files, in order, by any number of ranks and threads, restartable.

Terms: an *input* is a file, or a packed data set; a *block* is its consecutive rows that are read and scored together; a
*part* is the file with the finished results of a block, in the *work folder* beside the output. Which blocks there are
depends on the inputs and ``chunk_rows`` alone, so that any rank can finish what another one has left.
"""
