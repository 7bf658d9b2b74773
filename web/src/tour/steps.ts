// The tour: from "why not one word after the other" to the three families, at the model that is open.

import type { Tower } from "../api/types";
import { printed } from "../render/numbers";
import * as checks from "./checks";
import type { Place, Step } from "./lesson";

const words = ({ queries }: Place): number => queries.length;
const two = (place: Place): boolean => place.model.towers.length > 1;
const spread = ({ norm }: Tower): string => (norm === "RMSNorm" ? "mean square" : "variance");
/** A selection in which nothing of an earlier step is left. */
const fresh = { query: null, key: null, edits: [], padding: null, positions: "own", more: {} } as const;
const self = (place: Place) => ({ ...fresh, kind: "self" as const, tower: two(place) ? "encoder." : null });
const last = (place: Place) => ({ ...fresh, kind: "self" as const, tower: two(place) ? "decoder." : null });

export const STEPS: readonly Step[] = [
  {
    id: "rnn",
    title: "Why not one word after the other",
    view: "attention",
    text: (place) => [
      "A recurrent network reads as we do: word by word, with one vector that carries all it has seen. Two things follow. Each step waits for the one before, so a long text cannot be read faster by more hardware. And what the first word said must survive every step in between to reach the last.",
      `Your text has ${words(place)} tokens here. A recurrent network would take ${words(place)} steps one after the other, and the last token would stand ${words(place) - 1} steps from the first. Attention gives every token a direct way to every other: one step, all of them at once. The price is that all pairs are looked at, ${words(place)} × ${words(place)} = ${(words(place) ** 2).toLocaleString("en")}.`,
    ],
    formulas: [
      { tex: "\\underbrace{O(n\\,d^2)}_{\\text{recurrent}},\\; n\\ \\text{steps}\\qquad \\underbrace{O(n^2 d)}_{\\text{attention}},\\; 1\\ \\text{step}", about: "Work and steps for n tokens of width d (Vaswani et al. 2017, table 1)." },
    ],
    task: () => "Lock the longest way there is: the cell of the matrix from the last word to the first.",
    help: () => "In the matrix the rows are queries: who looks. Take the last row, first column, and click. With the keyboard: go to the matrix with Tab, then the arrows, then Space.",
    start: last,
    check: checks.farthest,
  },
  {
    id: "attention",
    title: "Attention: a mixture by weights",
    view: "attention",
    text: () => [
      "For each word, attention makes weights for all words it may look at. They are never negative and add up to 1. The word then takes up a mixture: so much of this one, so much of that one.",
      "Nothing is chosen for good. Every word gets a share, and since the shares are smooth numbers, learning can move them a little at a time.",
    ],
    formulas: [{ tex: "\\text{context}_t = \\sum_s w_{ts}\\, v_s, \\qquad \\sum_s w_{ts} = 1", about: "What word t gathers from all words s." }],
    task: () => "Click a word, then lock the word that it attends to most.",
    help: () => "Click a word in the strip: its weights appear beside the matrix, the largest first. Click the first of them.",
    start: self,
    check: checks.strongest,
  },
  {
    id: "qkv",
    title: "Query, key, value",
    view: "qkv",
    text: () => [
      "Where do the weights come from? Each word's vector is turned into three, by three learned matrices. The query says what the word is looking for, the key what it offers to be found by, the value what it hands over when it is found.",
      "A query and a key fit as well as they point the same way: multiply them number by number and add up. That sum is the score of the pair.",
    ],
    formulas: [
      { tex: "q = x W^Q,\\quad k = x W^K,\\quad v = x W^V", about: "Three views of one vector." },
      { tex: "q \\cdot k = \\sum_{i=1}^{d_k} q_i k_i", about: "How well a query and a key fit." },
    ],
    task: () => "Open a score, and see it taken apart: click an underlined score.",
    help: ({ name, head }) => `Step to the scores, and click one of the underlined numbers. Its address looks like ${name}.scores[0, ${head}, 2, 0].`,
    start: self,
    check: checks.explainedScore,
  },
  {
    id: "scale",
    title: "Why divide by the root of d_k",
    view: "qkv",
    text: ({ tower }) => [
      `A sum of ${tower.head_dim} products of independent numbers of variance 1 has variance ${tower.head_dim}, so scores grow with the width of a head. The softmax turns scores into weights by the exponential: where scores are far apart, one weight is nearly 1, the others nearly 0, and there is nothing left to learn from.`,
      `Dividing by √${tower.head_dim} = ${printed(Math.sqrt(tower.head_dim), 4)} keeps the variance at 1, whatever the width. This model multiplies by ${printed(tower.scale, 4)}.`,
    ],
    formulas: [{ tex: "w = \\mathrm{softmax}\\!\\left(\\frac{q K^\\top}{\\sqrt{d_k}}\\right)", about: "Scaled dot-product attention, for one query." }],
    task: () => "Saturate a softmax: below the steps, move the factor far above the model's own.",
    help: () => "At the foot of the figure is a curve over factors. Click far to its right, or go there with Tab and press the right arrow.",
    start: self,
    check: checks.saturated,
  },
  {
    id: "heads",
    title: "Many heads",
    view: "attention",
    text: ({ tower }) => [
      "One set of weights can answer one question about a word. A word has several: what came before it, what it agrees with, what it refers to. So the vector is read by several heads side by side, each with queries, keys and values of its own, each a narrower slice.",
      `Here each of ${tower.layers} layers has ${tower.num_heads} heads of width ${tower.head_dim}. What they gather is laid side by side and mixed by one more matrix.`,
    ],
    formulas: [{ tex: "\\mathrm{MultiHead}(x) = [\\,\\text{head}_1; \\dots; \\text{head}_h\\,]\\, W^O", about: "Heads side by side, then mixed." }],
    task: () => "Find a head that looks mostly at the token before, or more than any other here, and choose it.",
    help: () => "At the foot of the figure is the wall of all heads. Rank it by “previous token first”, and click the first tile.",
    start: last,
    check: checks.previousHead,
  },
  {
    id: "positions",
    title: "Positions",
    view: "positions",
    text: ({ tower }) => [
      "Weighted sums know no order: shuffle the words, and every word gathers the same. So the model must be told where each word stands. It can be added to the vector (waves of many lengths, or a learned vector for each place), turned into the queries and keys (rotary), or added to the scores (ALiBi, relative biases).",
      `This model: ${tower.positions.kind}.`,
    ],
    formulas: [{ tex: "PE_{(p,\\,2i)} = \\sin\\!\\left(p / 10000^{2i/d}\\right),\\quad PE_{(p,\\,2i+1)} = \\cos(\\cdot)", about: "The waves of the paper, one pair of columns for each length." }],
    task: () => "Make order fail: swap two words, or take the positions out of the model.",
    help: () => "In the figure, choose two words to be swapped. What if can do it too: “swap two words”.",
    start: self,
    check: checks.disordered,
  },
  {
    id: "mask",
    title: "Masking",
    view: "masking",
    text: (place) => [
      "Not every word may look at every other. A model that learns to write must not see the word it is to guess, and nobody should see padding, which only fills up a batch. The mask is a table of who may look where. What it hides gets the score −∞ before the softmax, and so a weight of exactly 0.",
      place.tower.causal || two(place) ? "A causal mask hides all that comes later: the upper right half." : "This model reads the whole text at once; its mask hides padding only.",
    ],
    formulas: [{ tex: "\\tilde s_{ts} = \\begin{cases} s_{ts} & \\text{if } t \\text{ may see } s\\\\ -\\infty & \\text{else}\\end{cases}", about: "Hidden before the softmax, so that the rest still adds up to 1." }],
    task: (place) => (place.model.towers.some(({ causal }) => causal) ? "Lock a cell that the mask hides." : "Nothing is hidden here: lock a cell where a word looks at a later one."),
    help: () => "A cell whose column (key) lies right of its row's own word (query) looks ahead.",
    start: last,
    check: checks.hiddenCell,
  },
  {
    id: "norm",
    title: "Layer norm",
    view: "norm",
    text: ({ tower }) => [
      "Vectors grow and shrink on their way through the layers. A norm brings each back to a common size: take off the mean, divide by the spread, then let the model choose a gain and a shift for every feature. It looks at one position at a time, so a long text is treated like a short one.",
      `This model norms ${tower.placement === "pre" ? "before each sub-layer, which leaves the stream itself untouched" : tower.placement === "post" ? "after each sub-layer, as the paper does" : "before and after each sub-layer"}, by ${tower.norm}.`,
    ],
    formulas: [{ tex: "\\mathrm{LN}(x) = g \\odot \\frac{x - \\mu}{\\sqrt{\\sigma^2 + \\varepsilon}} + b", about: "With mean μ and variance σ² of one vector (Ba et al. 2016); RMSNorm leaves the mean alone." }],
    task: ({ tower }) => `Choose the position whose vector, as it comes into the norm that is shown, has the largest ${spread(tower)}.`,
    help: ({ tower }) => `Go through the positions: the ${spread(tower)} of what comes in stands first among the norm's numbers.`,
    start: last,
    check: checks.widest,
  },
  {
    id: "feedforward",
    title: "The feed-forward network",
    view: "feedforward",
    text: ({ tower }) => [
      "Attention moves things between words; what is done with them at one word is the work of a small network, the same at every position. It widens the vector, bends it, and narrows it again.",
      `Here ${tower.d_model} numbers become ${tower.d_ff} units and ${tower.d_model} again. A unit responds to a direction in its input, and writes a direction of its own into the stream as strongly as it responds. Most parameters of a large model are here.`,
    ],
    formulas: [{ tex: "\\mathrm{FFN}(x) = f(x W_1 + b_1)\\, W_2 + b_2", about: "With f the ReLU in the paper, GELU or SiLU later." }],
    task: ({ layer }) => `Choose a word, then the unit of layer ${layer} that is farthest from 0 there.`,
    help: () => "The units are ranked for the chosen position. Choose the one with the largest activation, in size.",
    start: last,
    check: checks.activeUnit,
  },
  {
    id: "residual",
    title: "The residual stream",
    view: "residual",
    text: () => [
      "No sub-layer replaces a word's vector: each adds to it. So there is one stream from the embedding to the answer, and every head and every network reads from it and writes into it. What one layer writes, any later layer can read.",
      "That is why one can ask at every height what the model would answer if it stopped there: read the stream with the last norm and the head (the logit lens).",
    ],
    formulas: [{ tex: "x_{l+1} = x_l + \\mathrm{Attention}(x_l) + \\mathrm{FFN}(\\cdot)", about: "One line through the whole model." }],
    task: ({ model }) => (model.head === "language" || model.head === "masked" ? "At the last position, choose the state from which on the final answer stays the likeliest." : "This model has no head over tokens: choose a position, and see how the stream grows."),
    help: () => "Read the column from the top down as long as the token stays the same, and click the lowest of these cells.",
    start: last,
    check: checks.decided,
  },
  {
    id: "sides",
    title: "Encoder against decoder",
    view: "attention",
    text: (place) => [
      "The two towers of the paper are built from the same layer; the mask makes the difference. An encoder sees the whole text from every word, which is best for understanding it. A decoder sees only what came before, which is what lets it write: it is trained on every position at once, each guessing the next.",
      two(place) ? "This model has both." : `This model has one tower: ${place.tower.title.toLowerCase()}.`,
    ],
    formulas: [{ tex: "p(y_1 \\dots y_n) = \\prod_t p(y_t \\mid y_1 \\dots y_{t-1})", about: "What a decoder learns: one factor for each token." }],
    task: (place) => (two(place) ? "Compare the encoder's self-attention with the decoder's: choose the decoder's." : "Lock a cell in which the key comes after the query, and read off which kind this is."),
    help: (place) => (two(place) ? "The switch above the figure names the kinds of attention." : "Any cell above the diagonal will do."),
    start: self,
    check: checks.sides,
  },
  {
    id: "cross",
    title: "Cross-attention",
    view: "attention",
    text: (place) => [
      "To translate, what is written must look at what was read. Cross-attention is attention with queries from one sequence and keys and values from another: the decoder asks, the encoder's last states answer. Nothing else about it is new.",
      ...(place.model.towers.some(({ cross }) => cross) ? [] : ["The model that is open reads one sequence, so it has none. To see it, open an encoder–decoder: the explorer's own model is one (`pellucid explore`)."]),
    ],
    formulas: [{ tex: "Q = Y W^Q,\\qquad K = X W^K,\\quad V = X W^V", about: "Y is what is written so far, X what the encoder made of the source." }],
    task: (place) => (place.model.towers.some(({ cross }) => cross) ? "In the cross-attention, click a word that is written and lock the source word it looks at most." : null),
    help: () => "Choose cross-attention above the figure. The words below are those written, the words above those read.",
    start: (place) => (two(place) ? { ...fresh, kind: "cross", tower: "decoder." } : fresh),
    check: checks.aligned,
  },
  {
    id: "generation",
    title: "Writing",
    view: "generation",
    text: ({ model }) => [
      "A decoder answers with a score for every token of its vocabulary; the softmax makes a distribution of them. One token is chosen, put at the end of the text, and the model is asked again. Keys and values of earlier tokens do not change, so they are kept: that is the cache.",
      model.family === "encoder" ? "An encoder does not write; one that was trained on gaps fills them." : "How to choose is not part of the model: always the likeliest, or a draw, perhaps of a distribution made sharper (temperature) or cut short (top-k, top-p, min-p).",
    ],
    formulas: [{ tex: "p_i = \\frac{e^{z_i / T}}{\\sum_j e^{z_j / T}}", about: "Scores z at temperature T." }],
    task: ({ model }) => (model.family !== "encoder" ? "Write three tokens." : model.head === "masked" ? "Put <mask> into the text and run it." : "See what this encoder answers."),
    help: ({ model }) => (model.family !== "encoder" ? "Press Draw three times, or choose tokens from the list." : "Change the text at the top of the page, for example “the <mask> sat”, and press Run."),
    start: (place) => ({ ...last(place) }),
    check: checks.wrote,
  },
  {
    id: "cause",
    title: "What a head is for",
    view: "whatif",
    text: () => [
      "A picture of weights shows where a head looks, not what depends on it. To know that, change it and see: put zeros where the head's context was, and compare the answers.",
      "What remains is the model's own computation with one thing taken out. If the answer changes, it hung on that head; if not, others can do without it.",
    ],
    formulas: [{ tex: "\\Delta = \\log p_{\\text{without}} - \\log p_{\\text{with}}", about: "How much an answer hangs on a head (Michel et al. 2019): p is the answer's probability without and with it." }],
    task: () => "Zero a head that changes the answer.",
    help: () => "“Try every head” ranks them all; press “Take away” at the first. In a model where no single head changes it, any will do.",
    start: (place) => ({ ...last(place), query: two(place) ? Math.max(0, (place.pass.writes?.ids.length ?? 2) - 2) : null }),
    check: checks.headMatters,
  },
  {
    id: "families",
    title: "Three families",
    view: "architecture",
    text: () => [
      "One layer, three ways to put it together. An encoder (BERT, 2018) reads a text whole: to classify, to search, to fill gaps. A decoder (GPT, 2018) writes on from what is there, and most large models are such. An encoder–decoder (the paper's, T5, BART, Whisper) reads one sequence and writes another: translation, summary, speech.",
      "They differ in wiring, not in kinds of attention.",
    ],
    formulas: [{ tex: "\\text{encoder}: X \\to H,\\quad \\text{decoder}: Y_{<t} \\to y_t,\\quad \\text{both}: X,\\, Y_{<t} \\to y_t", about: "What goes in, what comes out." }],
    task: () => "Look at the picture of the model that is open: what is it?",
    help: () => "Count the towers. If there is one, ask whether its mask is causal.",
    answers: ["an encoder", "a decoder", "an encoder–decoder"],
    start: () => fresh,
    check: checks.family,
  },
  {
    id: "size",
    title: "Sizes",
    view: "architecture",
    text: ({ model, tower }) => [
      `A layer of width D has about 4 D² parameters in attention and 8 D² in a feed-forward network four times as wide; L layers have 12 L D², and the table of tokens comes on top. This model has ${model.parameters.toLocaleString("en")} parameters, with D = ${tower.d_model}${two({ model } as Place) ? " in two towers" : ""}.`,
      "In a small model the table weighs most, in a large one the layers do. The view Size has the calculator.",
    ],
    formulas: [{ tex: "N \\approx 12\\, L\\, D^2 + V D", about: "Parameters of L layers of width D with V tokens." }],
    task: () => "What share of this model's parameters is in its feed-forward networks, in per cent? Within 3 is near enough.",
    help: () => "In the picture, click the feed-forward part of a block: its parameters are shown. Times the number of layers, over all parameters.",
    answers: "number",
    start: () => fresh,
    check: checks.share,
  },
];
