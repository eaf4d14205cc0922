"""What a model card says of each data set: its name, licence, where it is from, how to cite it, what to beware of."""

from dataclasses import dataclass

from processing.datasets.path_vqa import HUB_ID as PATH_VQA
from processing.datasets.pmc_vqa import HUB_ID as PMC_VQA
from processing.datasets.slake import HUB_ID as SLAKE
from processing.datasets.vqa_rad import HUB_ID as VQA_RAD


@dataclass(frozen=True)
class About:
    """One data set.

    Attributes:
        title: its name for people.
        licence: of its images and texts, as its makers state it.
        source: where it is from.
        citation: BibTeX; empty where there is nothing to cite.
        hub_id: of the data set on the Hub, if it is there.
        caution: what somebody who uses or passes on a model trained on it has to know, if anything.
    """

    title: str
    licence: str
    source: str
    citation: str = ""
    hub_id: str | None = None
    caution: str = ""


UNKNOWN_LICENCE = "not known to this card"

MIMIC_LICENCE = "PhysioNet Credentialed Health Data License 1.5.0, with a data use agreement"
MIMIC_CAUTION = (
    "Weights trained on {} may hold what they have seen of patients' reports and images: they must not be published "
    "or passed on without regard to the data use agreement of PhysioNet."
)

MIMIC_CXR_CITATION = """\
@article{johnson2019mimiccxr,
  title = {{MIMIC-CXR}, a de-identified publicly available database of chest radiographs with free-text reports},
  author = {Johnson, Alistair E. W. and Pollard, Tom J. and Berkowitz, Seth J. and Greenbaum, Nathaniel R. and
            Lungren, Matthew P. and Deng, Chih-ying and Mark, Roger G. and Horng, Steven},
  journal = {Scientific Data},
  volume = {6},
  number = {317},
  year = {2019}
}"""

ABOUT = {
    "phantom": About(
        title="phantom",
        licence="Apache-2.0",
        source="drawn by this project",
        caution="The images of phantom are schematic drawings: what is learned from them says nothing of real images.",
    ),
    "vqa_rad": About(
        title="VQA-RAD",
        licence="CC0 1.0",
        source="https://osf.io/89kps/",
        hub_id=VQA_RAD,
        citation="""\
@article{lau2018vqarad,
  title = {A dataset of clinically generated visual questions and answers about radiology images},
  author = {Lau, Jason J. and Gayen, Soumya and Ben Abacha, Asma and Demner-Fushman, Dina},
  journal = {Scientific Data},
  volume = {5},
  number = {180251},
  year = {2018}
}""",
    ),
    "vqa_med_2019": About(
        title="ImageCLEF VQA-Med 2019",
        licence="CC BY 4.0",
        source="https://zenodo.org/records/10499039",
        citation="""\
@inproceedings{benabacha2019vqamed,
  title = {{VQA-Med}: Overview of the Medical Visual Question Answering Task at {ImageCLEF} 2019},
  author = {Ben Abacha, Asma and Hasan, Sadid A. and Datla, Vivek V. and Liu, Joey and Demner-Fushman, Dina and
            M{\\"u}ller, Henning},
  booktitle = {CLEF 2019 Working Notes, CEUR-WS 2380},
  year = {2019}
}""",
    ),
    "vqa_med_2020": About(
        title="ImageCLEF VQA-Med 2020",
        licence="CC BY 4.0",
        source="https://github.com/abachaa/VQA-Med-2020",
        citation="""\
@inproceedings{benabacha2020vqamed,
  title = {Overview of the {VQA-Med} Task at {ImageCLEF} 2020: Visual Question Answering and Generation in the Medical
           Domain},
  author = {Ben Abacha, Asma and Datla, Vivek V. and Hasan, Sadid A. and Demner-Fushman, Dina and
            M{\\"u}ller, Henning},
  booktitle = {CLEF 2020 Working Notes, CEUR-WS 2696},
  year = {2020}
}""",
    ),
    "vqa_med_2021": About(
        title="ImageCLEF VQA-Med 2021",
        licence="CC BY 4.0",
        source="https://github.com/abachaa/VQA-Med-2021",
        citation="""\
@inproceedings{benabacha2021vqamed,
  title = {Overview of the {VQA-Med} Task at {ImageCLEF} 2021: Visual Question Answering and Generation in the Medical
           Domain},
  author = {Ben Abacha, Asma and Sarrouti, Mourad and Demner-Fushman, Dina and Hasan, Sadid A. and
            M{\\"u}ller, Henning},
  booktitle = {CLEF 2021 Working Notes, CEUR-WS 2936},
  year = {2021}
}""",
    ),
    "slake": About(
        title="SLAKE",
        licence="CC BY 4.0",
        source="https://www.med-vqa.com/slake/",
        hub_id=SLAKE,
        citation="""\
@inproceedings{liu2021slake,
  title = {{SLAKE}: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual Question Answering},
  author = {Liu, Bo and Zhan, Li-Ming and Xu, Li and Ma, Lin and Yang, Yan and Wu, Xiao-Ming},
  booktitle = {IEEE International Symposium on Biomedical Imaging (ISBI)},
  year = {2021}
}""",
    ),
    "path_vqa": About(
        title="PathVQA",
        licence="MIT",
        source="https://github.com/UCSD-AI4H/PathVQA",
        hub_id=PATH_VQA,
        citation="""\
@article{he2020pathvqa,
  title = {{PathVQA}: 30000+ Questions for Medical Visual Question Answering},
  author = {He, Xuehai and Zhang, Yichen and Mou, Luntian and Xing, Eric and Xie, Pengtao},
  journal = {arXiv preprint arXiv:2003.10286},
  year = {2020}
}""",
        caution="The licence of PathVQA is that of its questions: the images belong to textbooks and to a library.",
    ),
    "pmc_vqa": About(
        title="PMC-VQA",
        licence="CC BY-SA",
        source="https://huggingface.co/datasets/xmcmic/PMC-VQA",
        hub_id=PMC_VQA,
        citation="""\
@article{zhang2023pmcvqa,
  title = {{PMC-VQA}: Visual Instruction Tuning for Medical Visual Question Answering},
  author = {Zhang, Xiaoman and Wu, Chaoyi and Zhao, Ziheng and Lin, Weixiong and Zhang, Ya and Wang, Yanfeng and
            Xie, Weidi},
  journal = {arXiv preprint arXiv:2305.10415},
  year = {2023}
}""",
    ),
    "mimic_cxr": About(
        title="MIMIC-CXR",
        licence=MIMIC_LICENCE,
        source="https://physionet.org/content/mimic-cxr-jpg/",
        citation=MIMIC_CXR_CITATION,
        caution=MIMIC_CAUTION.format("MIMIC-CXR"),
    ),
    "mimic_cxr_vqa": About(
        title="MIMIC-CXR-VQA",
        licence=MIMIC_LICENCE,
        source="https://physionet.org/content/mimic-ext-mimic-cxr-vqa/",
        citation=MIMIC_CXR_CITATION
        + """

@inproceedings{bae2023ehrxqa,
  title = {{EHRXQA}: A Multi-Modal Question Answering Dataset for Electronic Health Records with Chest X-ray Images},
  author = {Bae, Seongsu and Kyung, Daeun and Ryu, Jaehee and Cho, Eunbyeol and Lee, Gyubok and Kweon, Sunjun and
            Oh, Jungwoo and Ji, Lei and Chang, Eric I-Chao and Kim, Tackeun and Choi, Edward},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}""",
        caution=MIMIC_CAUTION.format("MIMIC-CXR-VQA"),
    ),
    "custom": About(
        title="own data",
        licence=UNKNOWN_LICENCE,
        source="a table of whoever trained the model",
        caution="Whether weights trained on own data may be passed on, only who owns the data can tell.",
    ),
    "parquet_shards": About(
        title="shards of another data set",
        licence=UNKNOWN_LICENCE,
        source="Parquet files, which do not tell what they were made from",
        caution="Whether weights trained on shards may be passed on depends on the data set in them.",
    ),
}
