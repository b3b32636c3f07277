"""The numbers that the paper prints, table by table in its order, all in percent.

Typed in from the paper (Hua et al., UP5, EACL 2024); figures 6 to 10 are drawings without numbers, figure 3
shows tables 7 to 9. `cells` makes one line of each number. The second typing that a test compares it with is
tests/published.csv.
"""

from typing import NamedTuple

# "hidden" says whose prompt or filter is used (G gender, A age, O occupation, M marital status), "-" none.
# A row "G" to "M" is the AUC of that attribute, "AUC" that of what is hidden, the mean where it is several.
TABLES = {
    1: """
data    MovieLens MovieLens MovieLens Insurance Insurance Insurance
model   PMF       SimpleX   P5        PMF       SimpleX   P5
Hit@1   19.91     17.94     20.57     70.20     76.50     82.53
Hit@3   38.66     38.79     38.38     75.23     80.12     92.68
Hit@10  65.69     65.69     67.31     90.04     91.41     98.89
G       80.22     75.52     74.71     52.04     53.34     50.11
A       82.37     79.39     67.40     57.94     56.87     50.09
O       61.32     59.40     56.50     58.25     57.12     53.28
M       -         -         -         71.30     68.85     69.25
""",
    2: """
data    MovieLens MovieLens MovieLens Insurance Insurance Insurance
model   SASRec    BERT4Rec  P5        SASRec    BERT4Rec  P5
Hit@1   28.39     29.30     30.34     77.26     81.20     84.56
Hit@3   53.89     49.06     49.26     85.15     93.33     93.99
Hit@10  76.32     70.06     67.40     95.76     98.78     98.98
G       91.90     78.52     74.71     73.23     61.20     50.13
A       92.06     73.35     67.40     57.93     54.34     56.92
O       76.57     64.79     56.50     88.04     54.30     57.87
M       -         -         -         76.61     76.11     76.37
""",
    3: """
data    MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens
hidden  G         G         G         A         A         A         O         O         O
model   C-PMF     C-SX      CFP       C-PMF     C-SX      CFP       C-PMF     C-SX      CFP
Hit@1   16.73     13.96     16.38     17.42     13.87     21.22     15.60     14.06     21.00
Hit@3   34.03     29.56     35.04     34.20     29.61     39.22     34.36     29.56     38.50
Hit@10  65.32     56.02     65.82     65.18     55.42     67.30     65.33     56.02     69.49
AUC     56.62     70.80     54.19     62.55     79.26     52.91     56.01     57.02     50.00

data    Insurance Insurance Insurance Insurance Insurance Insurance Insurance Insurance Insurance
hidden  A         A         A         M         M         M         O         O         O
model   C-PMF     C-SX      CFP       C-PMF     C-SX      CFP       C-PMF     C-SX      CFP
Hit@1   67.61     71.14     82.53     66.68     71.50     81.03     68.51     71.09     82.53
Hit@3   73.25     83.23     92.68     74.23     83.00     90.58     74.09     82.23     92.68
Hit@10  85.98     92.65     98.89     85.99     96.50     97.66     85.95     93.27     98.89
AUC     50.81     51.26     50.09     52.10     56.23     52.19     54.40     52.09     53.28
""",
    4: """
data    MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens
hidden  G         G         G         A         A         A         O         O         O
model   S-SAS     S-B4      CFP       S-SAS     S-B4      CFP       S-SAS     S-B4      CFP
Hit@1   20.87     23.48     26.82     22.95     27.98     31.23     18.90     24.33     31.66
Hit@3   41.64     42.09     45.18     44.10     49.32     51.18     20.84     43.29     50.73
Hit@10  60.82     62.43     64.38     66.00     69.38     67.70     43.87     59.74     67.45
AUC     59.72     58.33     54.19     60.20     67.33     52.91     67.27     60.36     50.00

data    Insurance Insurance Insurance Insurance Insurance Insurance Insurance Insurance Insurance
hidden  A         A         A         M         M         M         O         O         O
model   S-SAS     S-B4      CFP       S-SAS     S-B4      CFP       S-SAS     S-B4      CFP
Hit@1   69.40     81.20     82.08     70.10     75.33     80.63     70.09     81.20     82.62
Hit@3   80.05     93.33     92.62     80.38     84.54     90.16     80.38     93.33     92.65
Hit@10  88.34     98.78     98.37     88.49     94.34     98.38     88.91     98.78     98.54
AUC     57.48     53.34     51.23     66.51     69.11     50.03     86.66     54.30     50.82
""",
    5: """
data    MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens
hidden  GA        GA        GA        GO        GO        GO
model   C-PMF     C-SX      CFP       C-PMF     C-SX      CFP
Hit@1   14.93     15.61     16.33     15.25     15.53     18.67
Hit@3   32.11     31.79     37.48     32.70     31.84     39.02
Hit@10  60.51     58.82     66.89     60.58     58.78     66.39
AUC     58.03     70.25     54.22     56.57     60.90     52.10

data    MovieLens MovieLens MovieLens MovieLens MovieLens MovieLens
hidden  AO        AO        AO        GAO       GAO       GAO
model   C-PMF     C-SX      CFP       C-PMF     C-SX      CFP
Hit@1   14.84     15.43     21.37     15.09     15.67     20.18
Hit@3   31.83     31.87     39.83     32.58     31.85     38.79
Hit@10  59.51     58.71     68.40     60.75     58.87     66.78
AUC     56.57     64.41     50.00     56.54     65.19     53.21
""",
    6: """
data    Insurance Insurance Insurance Insurance Insurance Insurance
hidden  AO        AO        AO        AM        AM        AM
model   C-PMF     C-SX      CFP       C-PMF     C-SX      CFP
Hit@1   63.68     71.58     79.00     62.27     71.23     80.91
Hit@3   70.55     80.50     89.22     69.78     79.18     90.97
Hit@10  84.88     93.61     97.66     83.85     93.22     98.73
AUC     58.38     55.98     50.80     55.60     59.97     50.79

data    Insurance Insurance Insurance Insurance Insurance Insurance
hidden  MO        MO        MO        AMO       AMO       AMO
model   C-PMF     C-SX      CFP       C-PMF     C-SX      CFP
Hit@1   62.44     71.11     78.30     64.38     72.30     81.63
Hit@3   69.39     81.22     88.45     70.11     81.78     91.52
Hit@10  84.88     93.52     97.33     85.90     93.35     97.37
AUC     57.86     59.79     50.64     57.44     58.43     50.74
""",
    7: """
data    MovieLens MovieLens Insurance Insurance
model   with      without   with      without
G       50.33     50.26     50.00     50.00
A       50.09     50.00     50.33     50.00
O       50.00     50.00     50.47     50.00
M       -         -         50.20     50.00
""",
    8: """
data    MovieLens Insurance
model   soft      soft
G       70.84     50.00
A       64.60     51.80
O       56.50     50.00
M       -         70.28
""",
    9: """
data    MovieLens  Insurance
model   classifier classifier
G       74.71      50.13
A       67.40      56.92
O       53.47      57.87
M       -          76.37
""",
    10: """
data    MovieLens Insurance
model   P5        P5
Hit@1   22.79     83.01
Hit@3   35.97     87.95
Hit@10  62.18     87.95
G       73.39     50.49
A       59.59     51.68
O       50.43     50.18
M       -         58.40
""",
    11: """
data    MovieLens Insurance
model   P5        P5
Hit@1   33.70     84.17
Hit@3   46.92     87.23
Hit@10  68.18     90.11
G       73.39     51.32
A       59.59     52.40
O       50.43     50.97
M       -         61.89
""",
    12: """
data    MovieLens MovieLens MovieLens Insurance Insurance Insurance
hidden  G         A         O         A         M         O
model   CFP       CFP       CFP       CFP       CFP       CFP
Hit@1   20.78     22.08     22.79     83.01     82.74     83.01
Hit@3   34.62     35.12     35.97     87.95     87.31     87.95
Hit@10  59.14     60.97     62.18     87.95     87.92     87.95
AUC     52.30     50.23     50.43     51.68     50.00     50.18
""",
    13: """
data    MovieLens MovieLens MovieLens Insurance Insurance Insurance
hidden  G         A         O         A         M         O
model   CFP       CFP       CFP       CFP       CFP       CFP
Hit@1   31.72     32.69     33.70     84.17     82.33     84.17
Hit@3   44.60     45.72     46.92     87.23     86.14     87.23
Hit@10  65.13     67.73     68.18     90.11     88.90     90.11
AUC     54.38     52.25     50.43     52.40     50.23     50.97
""",
    14: """
data    MovieLens MovieLens MovieLens MovieLens
hidden  GA        GO        AO        GAO
model   CFP       CFP       CFP       CFP
Hit@1   22.13     20.78     22.08     22.13
Hit@3   36.77     34.62     35.12     36.77
Hit@10  60.08     59.14     60.97     60.08
AUC     50.49     51.37     50.33     50.47
""",
    15: """
data    Insurance Insurance Insurance Insurance
hidden  AO        AM        MO        AMO
model   CFP       CFP       CFP       CFP
Hit@1   84.17     82.33     82.33     82.33
Hit@3   87.23     86.14     86.14     86.14
Hit@10  90.11     88.90     88.90     88.90
AUC     51.69     51.32     50.60     51.20
""",
}

TITLES = {
    1: "matching-based recommendation",
    2: "sequential recommendation",
    3: "one attribute hidden, matching-based models",
    4: "one attribute hidden, sequential models",
    5: "several attributes hidden, MovieLens",
    6: "several attributes hidden, Insurance",
    7: "asking with manually designed prompts",
    8: "tuning a soft probing prompt",
    9: "training a multi-class classifier",
    10: "OpenLlama-3B, matching-based recommendation",
    11: "OpenLlama-3B, sequential recommendation",
    12: "OpenLlama-3B, one attribute hidden, matching-based",
    13: "OpenLlama-3B, one attribute hidden, sequential",
    14: "OpenLlama-3B, several attributes hidden, MovieLens",
    15: "OpenLlama-3B, several attributes hidden, Insurance",
}

# What in a table does not go together with the rest of the paper.
DOUBTS = {
    1: "P5's AUC on MovieLens are those of table 2, though the prompts differ; its occupation AUC, 56.50, is "
    "the soft probe's of table 8, the classifier of table 9 has 53.47. PMF and SimpleX have the same Hit@10 "
    "on MovieLens. On Insurance P5's age AUC is 50.09 here and 56.92 in tables 2 and 9.",
    2: "P5's AUC on MovieLens are those of table 1. The text says that P5 does better than the others; here "
    "SASRec's Hit@3 and Hit@10 on MovieLens are higher, and so is BERT4Rec's Hit@10.",
    3: "CFP's age and occupation columns on Insurance are, AUC included, P5's of table 1 without any prompt. "
    "CFP's AUC on MovieLens are those of table 4.",
    4: "S-B4's age and occupation columns on Insurance have BERT4Rec's Hit@k of table 2, and its occupation "
    "AUC too. CFP's AUC on MovieLens are those of table 3.",
    5: "The words Model and Attribute are exchanged in its head. C-PMF has the same AUC for GO and AO. CFP "
    "hides AO with 50.00 although it hides age alone with 52.91.",
    6: "The words Model and Attribute are exchanged in its head.",
    9: "Tables 1 and 2 give P5 on MovieLens the occupation AUC 56.50 of table 8, not 53.47.",
    10: "The AUC on MovieLens are those of table 11. Hit@3 and Hit@10 are the same on Insurance.",
    11: "The AUC on MovieLens are those of table 10.",
    12: "The occupation columns, and age on Insurance, are table 10's without any prompt.",
    13: "The occupation columns, and age on Insurance, are table 11's without any prompt.",
    14: "The Hit@k of GO and AO are those of gender alone and of age alone in table 12; those of GA and GAO "
    "are the same.",
    15: "The Hit@k are those of single attributes in table 13, which is sequential; those of table 14 are of "
    "table 12, which is not.",
}


class Cell(NamedTuple):
    """A number of the paper."""

    table: int  # 1 to 15
    data: str  # "MovieLens" or "Insurance"
    model: str
    hidden: str  # letters of the attributes, "" for none
    metric: str  # "Hit@1", "Hit@3", "Hit@10", "AUC", or a letter: that attribute's AUC
    percent: float


def cells(table: int) -> list[Cell]:
    """The numbers of a table, column by column of what is printed above."""
    found = []
    for block in TABLES[table].strip().split("\n\n"):
        rows = [line.split() for line in block.splitlines()]
        heads = {name: values for name, *values in rows if name in ("data", "hidden", "model")}
        for name, *values in rows[len(heads) :]:
            assert all(len(values) == len(head) for head in heads.values()), (table, name)
            for column, value in enumerate(values):
                hidden = heads["hidden"][column] if "hidden" in heads else ""
                place = heads["data"][column], heads["model"][column], hidden
                if value != "-":
                    found.append(Cell(table, *place, name, float(value)))
    return found
